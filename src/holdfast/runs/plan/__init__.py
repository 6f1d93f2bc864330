"""From a study to the steps that carry it out."""
