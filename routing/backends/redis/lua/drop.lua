-- @include dead_letters
-- Forget a dead letter. ARGV: 3 delivery
return exhume(ARGV[3]) and 1 or 0
