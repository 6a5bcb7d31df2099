//! The migrations are embedded when the crate is compiled, so a changed file must compile it again.

fn main() {
    println!("cargo::rerun-if-changed=migrations");
}
