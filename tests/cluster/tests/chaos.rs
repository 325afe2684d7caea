//! One short round of chaos, with what this machine allows: `make chaos` is the long form, in which every fault comes.

use std::process::Command;

#[test]
fn a_round_of_faults_loses_resurrects_and_invents_nothing() {
    let output = Command::new(env!("CARGO_BIN_EXE_dynamo-chaos")).args(["--minutes", "0.9", "--seed", "4"]).output();
    let output = output.expect("the program was built with this test");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}\n{text}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("nothing lost, nothing resurrected, nothing invented"), "{text}");
    assert!(
        !text.contains("libdynamo_preload.so is not beside"),
        "`make test` builds it, as `cargo build -p dynamo-preload` does"
    );
    // A round in which nothing happened proves nothing.
    let table = text.split("FAULT").nth(1).expect("a table of faults");
    let made = |fault: &str| {
        let row = table.lines().find(|line| line.starts_with(fault)).unwrap_or_else(|| panic!("no row for {fault}: {text}"));
        row.trim_start_matches(fault).split_whitespace().next().and_then(|number| number.parse::<u64>().ok())
    };
    for fault in ["kill -9 of all", "kill -9 of several", "pause"] {
        assert!(made(fault) > Some(0), "{fault}: {text}");
    }
    let kinds = table.lines().skip(1).take_while(|line| !line.starts_with("nodes ")).count();
    let not_here = text.lines().filter(|line| line.starts_with("not here: ")).count();
    assert_eq!(kinds + not_here, 14, "{text}");
    // Without namespaces there are neither networks to cut nor disks to fill; all others need no more than processes.
    assert_eq!(not_here, if text.contains("no namespaces") { 5 } else { 0 }, "{text}");
    let acknowledged = text.lines().find_map(|line| line.strip_prefix("writes: ")?.split(' ').next()?.parse::<u64>().ok());
    assert!(acknowledged > Some(500), "{text}");
}
