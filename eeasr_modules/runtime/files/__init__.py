"""The command `eeasr transcribe`: what to transcribe, who does it, what is written."""
