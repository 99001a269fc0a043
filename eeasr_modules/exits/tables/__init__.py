"""Exit tables: what every exit said of every utterance; files, others' transcripts."""
