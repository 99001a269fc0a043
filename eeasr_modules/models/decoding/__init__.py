"""From log-probs to transcripts: greedy, by beam search, by an attention decoder."""
