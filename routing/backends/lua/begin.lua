-- Take a delivery to run it. ARGV[3] delivery, [4] owner, [5] lease ms, [6] '1' if redelivered
return begin(ARGV[3], ARGV[4], tonumber(ARGV[5]), ARGV[6] == '1')
