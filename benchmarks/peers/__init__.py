"""The peers: other ways to hand the latest state of one process to others, all told to do the same job.

``peer`` says what that is, ``everyone`` lists who does it; ``trial`` has one of them do it, in processes of its own.
Nothing is imported here: each process of a trial imports what it uses, and would wait for the rest.
"""
