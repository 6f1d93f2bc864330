"""Words, labels and tables that all sections share."""
