-- @include beginning
-- Take a delivery to run it. ARGV: 3 delivery, 4 owner, 5 lease ms
return begin(ARGV[3], ARGV[4], tonumber(ARGV[5]))
