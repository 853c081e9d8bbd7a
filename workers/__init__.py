"""The model side: processes that hold an annotator and answer chunks of work from the queue."""
