"""What joint search gains over each family alone and over static networks, measured."""
