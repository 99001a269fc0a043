"""Exit tables: what every exit said of every utterance; files, text signals, others' transcripts."""
