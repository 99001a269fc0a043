"""Words: what is known of them, how two transcripts correspond, what models of words see."""
