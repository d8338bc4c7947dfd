"""Every number is measured here."""
