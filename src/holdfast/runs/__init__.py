"""A study carried out: the plan of its steps, what each step does, engines, and runs on disk."""
