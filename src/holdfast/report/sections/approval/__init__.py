"""The section on users whose approval is trained on."""
