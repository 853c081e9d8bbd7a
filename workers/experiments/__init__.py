"""Do margins make better reward models? Arms that differ in nothing else, trained and measured alike."""
