"""What a report is shown as: Markdown, HTML, CSV, pictures."""
