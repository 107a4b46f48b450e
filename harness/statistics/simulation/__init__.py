"""Simulated tables whose truth is known: how often are their stars, ranks and intervals wrong?"""
