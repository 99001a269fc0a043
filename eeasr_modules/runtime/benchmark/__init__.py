"""The command `eeasr benchmark`: ways of transcribing timed side by side."""
