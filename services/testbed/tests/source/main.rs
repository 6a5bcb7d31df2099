//! Rules about the source code itself, read by a parser: a type name stands for one thing, files import each other in no
//! circle, and no type grows past what a reader can hold in mind. Each rule lists its exceptions with a sentence why.

mod imports;
mod lines;
mod names;
mod sizes;
mod tree;

/// Fails with every finding that is not excepted.
fn assert_only_exceptions(rule: &str, found: &[(String, String)], exceptions: &[(&str, &str)]) {
    let new = found.iter().filter(|(name, _)| !exceptions.iter().any(|(excepted, _)| excepted == name));
    let new: Vec<String> = new.map(|(name, places)| format!("{name}\n{places}")).collect();
    assert!(new.is_empty(), "{rule}:\n{}", new.join("\n"));
}
