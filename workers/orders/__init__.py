"""What can be ordered from the one train queue: each module makes one kind of thing."""
