"""The shelf: one file a method. fedkd finds a method by its file's name; `README.md` here has a
card for each.
"""
