"""Networks that no library ships; torch only."""
