"""Users whose approval is trained on: gaps between gameable and other users, reactions, arms, training logs."""
