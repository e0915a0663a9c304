"""Results: their files, tables, figures and the report."""
