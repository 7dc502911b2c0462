"""Who looks: collectors read the machine on a schedule, judge what they saw, and tell it; they change nothing."""
