"""Words: what is known of them, signals of transcripts, what models of words see, confidence."""
