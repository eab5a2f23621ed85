"""Other people's training loops and experiment trackers, each adapted to `Scope` in one file.

Each file has the name of what it adapts to and is imported by that name; nothing else in gradscope imports any of them,
so none of these libraries is needed by who does not use it.
"""
