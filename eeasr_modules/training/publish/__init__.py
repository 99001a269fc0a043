"""Model folders for others: the hub, SpeechBrain's loader, tables without others' texts."""
