"""Everything that reads a whole study: tables, comparisons, figures and the report."""
