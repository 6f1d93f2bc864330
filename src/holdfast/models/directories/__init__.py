"""Model directories: where they lie, what their files hold, adapters on them, and how they are opened."""
