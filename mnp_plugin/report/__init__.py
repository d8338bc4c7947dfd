"""Records -> tables. Imports records and pandas, never torch."""
