"""Tables, leaderboards, pictures and gate reports from what evidence says."""
