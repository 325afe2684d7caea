module dynamokv.test/metrics

go 1.25
