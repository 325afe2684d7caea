//! One short round of chaos, with every fault that this machine allows: `make chaos` is the long form.

use std::process::Command;

#[test]
fn a_round_of_every_fault_loses_resurrects_and_invents_nothing() {
    let output = Command::new(env!("CARGO_BIN_EXE_dynamo-chaos")).args(["--minutes", "0.9", "--seed", "4"]).output();
    let output = output.expect("the program was built with this test");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}\n{text}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("nothing lost, nothing resurrected, nothing invented"), "{text}");
    // A round in which nothing happened proves nothing.
    let table = text.split("FAULT").nth(1).expect("a table of faults");
    let made = |fault: &str| {
        let row = table.lines().find(|line| line.starts_with(fault)).unwrap_or_else(|| panic!("no row for {fault}: {text}"));
        row.trim_start_matches(fault).split_whitespace().next().and_then(|number| number.parse::<u64>().ok())
    };
    for fault in ["kill -9 of all", "kill -9 of several", "pause"] {
        assert!(made(fault) > Some(0), "{fault}: {text}");
    }
    let acknowledged = text.lines().find_map(|line| line.strip_prefix("writes: ")?.split(' ').next()?.parse::<u64>().ok());
    assert!(acknowledged > Some(500), "{text}");
}
