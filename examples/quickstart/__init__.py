"""The quick start: small data, a teacher, a student alone and the same student distilled, compared in minutes."""
