"""holdfast: did this training stage cost us safety, and does safety training hold?"""
