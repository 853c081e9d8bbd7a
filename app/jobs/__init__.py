"""Jobs: cutting work into chunks, submitting, following and collecting them. The one owner of job state in Redis."""
