"""The agent, which runs one attempt of a task: one file that travels alone (see ``agent.py``)."""
