//! The unit, as systemd judges it.

use std::{fs, path::Path, process::Command};

use crate::harness::scratch;

const UNIT: &str = "packaging/rowcast@.service";
/// What `systemd-analyze security` may say at most, in tenths: the network, which the service is for, is 0.7 of it.
const EXPOSURE: &str = "14";

fn analyze(arguments: &[&str], unit: &Path) {
    let mut command = Command::new("systemd-analyze");
    let output = command.args(arguments).arg(unit).output().expect("tests/setup installs systemd");
    let said = String::from_utf8_lossy(&output.stdout);
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}{complaints}");
    assert!(complaints.is_empty(), "{arguments:?}: {complaints}");
}

#[test]
fn systemd_finds_nothing_wrong_with_the_unit_and_little_that_it_leaves_open() {
    let folder = scratch::folder("unit");
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(UNIT)).unwrap();
    let unit = folder.path().join("rowcast@.service");
    // A program that is there.
    fs::write(&unit, text.replace("/usr/bin/rowcast", env!("CARGO_BIN_EXE_rowcast"))).unwrap();
    analyze(&["verify", "--man=no"], &unit);
    analyze(&["security", "--offline=yes", "--no-pager", "--threshold", EXPOSURE], &unit);
}
