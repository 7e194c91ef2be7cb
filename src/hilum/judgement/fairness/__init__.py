"""Whom the answers serve worse: quality by group, the gaps between groups, and what narrows them."""
