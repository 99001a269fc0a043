"""The commands of `eeasr`. What a command needs is imported inside it, so that `eeasr --help` waits for nothing."""
