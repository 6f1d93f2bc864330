"""What `inspect` loads to know holdfast's tasks, scorers and models by name."""

from holdfast.inspection.provider import holdfast
from holdfast.inspection.tasks import helpfulness, office, play_episode, rubric, safety, toolemu

__all__ = ["helpfulness", "holdfast", "office", "play_episode", "rubric", "safety", "toolemu"]
