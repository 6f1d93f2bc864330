"""What `inspect` loads to know holdfast's tasks, scorers and models by name."""

from holdfast.exchange.inspect.provider import holdfast
from holdfast.exchange.inspect.tasks import helpfulness, office, play_episode, rubric, safety, toolemu

__all__ = ["helpfulness", "holdfast", "office", "play_episode", "rubric", "safety", "toolemu"]
