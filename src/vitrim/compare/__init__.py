"""Compare many configurations of one model: resumable runs and their reports."""
