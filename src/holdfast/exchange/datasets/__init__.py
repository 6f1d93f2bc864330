"""Data that people train on: files of chats and of preferences, in OpenAI's and TRL's forms."""
