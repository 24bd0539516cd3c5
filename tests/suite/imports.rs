//! The direction of imports, leaf to root. Stages never import each other.

use std::{
    fs,
    path::{Path, PathBuf},
};

use MayImport::{AllAbove, Only};

/// Each module of the library and what it may import of the others.
const TABLE: &[(&str, MayImport)] = &[
    ("secret", Only(&[])),
    ("chain", Only(&[])),
    ("backoff", Only(&[])),
    ("duration", Only(&[])),
    ("change", Only(&[])),
    ("observe", Only(&[])),
    ("failpoint", Only(&[])),
    ("notification", Only(&["change"])),
    ("acknowledge", Only(&["change"])),
    ("coalesce", Only(&["change", "notification", "acknowledge"])),
    ("state", Only(&["change", "notification"])),
    ("postgres", Only(&["change", "secret"])),
    ("source", Only(&["change", "postgres", "observe", "secret", "failpoint"])),
    ("lookup", Only(&["change", "postgres", "chain", "backoff"])),
    ("route", Only(&["change", "notification", "duration"])),
    (
        "deliver",
        Only(&[
            "change",
            "notification",
            "acknowledge",
            "coalesce",
            "observe",
            "secret",
            "backoff",
            "duration",
        ]),
    ),
    (
        "config",
        Only(&["chain", "duration", "postgres", "route", "deliver", "source", "observe", "secret"]),
    ),
    ("pipeline", AllAbove),
    ("cli", AllAbove),
];

enum MayImport {
    Only(&'static [&'static str]),
    AllAbove,
}

/// `None` for a module without a row.
fn may_import(module: &str) -> Option<Vec<&'static str>> {
    let row = TABLE.iter().position(|(name, _)| *name == module)?;
    Some(match &TABLE[row].1 {
        Only(modules) => modules.to_vec(),
        AllAbove => TABLE[..row].iter().map(|(name, _)| *name).collect(),
    })
}

/// Belong to the command line alone: the library has typed errors and writes only what it is asked to.
const ONLY_IN_CLI: &[&str] =
    &["clap::", "anyhow::", "anyhow!", "println!", "print!", "eprintln!", "eprint!"];

#[test]
fn modules_import_only_what_the_design_allows() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut complaints = Vec::new();
    for file in rust_files(&src) {
        let name = file.strip_prefix(&src).expect("it was found in src");
        let text = fs::read_to_string(&file).expect("the source is readable");
        for (line, complaint) in violations(&module_of(name), &text) {
            complaints.push(format!("src/{}:{line}: {complaint}", name.display()));
        }
    }
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn a_forbidden_import_is_named_with_its_line() {
    let text =
        "use std::fmt;\n\nuse crate::{\n    change::{Change, deliver},\n    deliver::Sink,\n};\n";
    let expected = "route may not import deliver, only: change, notification, duration";
    assert_eq!(violations("route", text), [(5, expected.to_owned())]);

    let inline =
        "fn f() -> crate::route::Rule {\n    crate::change::f();\n    crate::config::load()\n}\n";
    let found: Vec<usize> =
        violations("change", inline).into_iter().map(|(line, _)| line).collect();
    assert_eq!(found, [1, 3]);
}

#[test]
fn own_modules_and_comments_are_no_imports() {
    let text = "//! Like [`crate::deliver`].\nuse crate::route::Rule; // not crate::deliver\nuse crate::change::Change;\n";
    assert_eq!(violations("route", text), []);
}

#[test]
fn a_module_that_the_table_lacks_is_named() {
    let found = violations("nowhere", "use crate::change::Change;\n");
    assert_eq!(
        found,
        [(1, "nowhere has no row in the table of tests/suite/imports.rs".to_owned())]
    );
}

#[test]
fn printing_and_anyhow_belong_to_the_command_line() {
    let text = "use anyhow::Context;\nfn f() {\n    println!(\"x\");\n}\n";
    let found: Vec<usize> = violations("deliver", text).into_iter().map(|(line, _)| line).collect();
    assert_eq!(found, [1, 3]);
    assert_eq!(violations("cli", text), []);
}

/// What a file of this module does against the table: line from 1 on, and words.
fn violations(module: &str, text: &str) -> Vec<(usize, String)> {
    let text = without_comments(text);
    let line_of = |at: usize| text[..at].matches('\n').count() + 1;
    let mut found = Vec::new();

    if module != "cli" {
        for word in ONLY_IN_CLI {
            let uses = occurrences(&text, word).into_iter();
            found.extend(uses.map(|at| (line_of(at), format!("{word} belongs to cli alone"))));
        }
    }
    // The root declares the modules; it has nothing to import.
    let imports = if module == "lib" { Vec::new() } else { imports(&text) };
    let allowed = may_import(module);
    for (at, imported) in imports {
        match &allowed {
            _ if imported == module => {}
            None => {
                let complaint =
                    format!("{module} has no row in the table of tests/suite/imports.rs");
                found.push((line_of(at), complaint));
            }
            Some(allowed) if allowed.contains(&imported) => {}
            Some(allowed) => {
                let only =
                    if allowed.is_empty() { "nothing".to_owned() } else { allowed.join(", ") };
                found.push((
                    line_of(at),
                    format!("{module} may not import {imported}, only: {only}"),
                ));
            }
        }
    }
    found.sort();
    found
}

/// Each module that a `crate::` path names, and where: one for `crate::a::b`, several for `crate::{a::b, c}`.
fn imports(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for start in occurrences(text, "crate::") {
        let path = start + "crate::".len();
        if !text[path..].starts_with('{') {
            found.push((path, identifier(&text[path..])));
            continue;
        }
        let mut depth = 0;
        let mut expects_module = false;
        for (offset, char) in text[path..].char_indices() {
            match char {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                break;
            }
            if depth == 1 && (char == '{' || char == ',') {
                expects_module = true;
            } else if expects_module && !char.is_whitespace() && char != '}' {
                found.push((path + offset, identifier(&text[path + offset..])));
                expects_module = false;
            }
        }
    }
    found.retain(|(_, name)| !name.is_empty());
    found
}

fn identifier(text: &str) -> &str {
    let end = text.find(|char: char| !is_identifier(char)).unwrap_or(text.len());
    &text[..end]
}

fn is_identifier(char: char) -> bool {
    char.is_alphanumeric() || char == '_'
}

/// Where `word` begins in `text`, not as the end of a longer name.
fn occurrences(text: &str, word: &str) -> Vec<usize> {
    let begins = |at: usize| !text[..at].ends_with(is_identifier);
    text.match_indices(word).map(|(at, _)| at).filter(|at| begins(*at)).collect()
}

/// The same lines, each up to its `//`.
fn without_comments(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap_or_default().to_owned() + "\n").collect()
}

/// `main.rs` is a part of the command line.
fn module_of(file: &Path) -> String {
    let first = file.iter().next().expect("a file has a name").to_string_lossy();
    let module = first.strip_suffix(".rs").unwrap_or(&first);
    if module == "main" { "cli".to_owned() } else { module.to_owned() }
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("the folder is readable") {
        let path = entry.expect("the folder is readable").path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|it| it == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}
