-- Take a delivery to run it. ARGV[3] delivery, ARGV[4] owner, ARGV[5] lease ms
return begin(ARGV[3], ARGV[4], tonumber(ARGV[5]))
