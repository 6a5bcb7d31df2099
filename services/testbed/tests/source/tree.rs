//! The workspace's source files, found as the compiler finds them: from each target's root along its `mod` declarations.

use std::{
    fs,
    path::{Path, PathBuf},
};

use syn::{Attribute, Expr, ExprLit, Item, Lit};

/// One parsed source file.
pub(crate) struct SourceFile {
    /// Relative to the workspace, with its crate's folder: `services/wire/src/frame.rs`.
    pub(crate) path: String,
    /// The crate's folder: `services/wire`.
    pub(crate) package: String,
    /// The file where this crate begins, such as `services/wire/src/lib.rs`: `crate::` means its root module.
    pub(crate) root: String,
    /// From the root on: `["tests", "vectors"]`.
    pub(crate) module: Vec<String>,
    /// Compiled for tests only.
    pub(crate) is_test: bool,
    pub(crate) text: String,
    pub(crate) syntax: syn::File,
}

/// The workspace of this test, or the one at `CHARGEMESH_SOURCE`, such as a checkout of another commit.
pub(crate) fn workspace() -> PathBuf {
    let own = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    std::env::var_os("CHARGEMESH_SOURCE").map_or_else(own, PathBuf::from)
}

/// Every source file of every crate, fuzz targets included.
pub(crate) fn all() -> Vec<SourceFile> {
    let workspace = workspace();
    let mut files = Vec::new();
    for package in packages(&workspace) {
        for (root, is_test) in roots(&workspace.join(&package)) {
            let root = format!("{package}/{root}");
            let start = ModulePlace { root: &root, package: &package, module: Vec::new(), is_test };
            load(&workspace, &root, &start, &mut files);
        }
    }
    assert!(files.len() > 100, "found only {} source files below {}", files.len(), workspace.display());
    files
}

/// What the product is made of: no test and no crate that is there for tests alone.
pub(crate) fn product() -> impl Iterator<Item = SourceFile> {
    all().into_iter().filter(|file| !file.is_test && !["services/testbed", "fuzz"].contains(&file.package.as_str()))
}

fn packages(workspace: &Path) -> Vec<String> {
    let mut packages = vec!["proto".to_owned(), "fuzz".to_owned()];
    let services = fs::read_dir(workspace.join("services")).expect("the workspace has services");
    packages.extend(services.map(|entry| format!("services/{}", entry.expect("an entry").file_name().display())));
    packages.retain(|package| workspace.join(package).join("Cargo.toml").exists());
    packages.sort_unstable();
    packages
}

/// The root file of each target, and whether it is a test.
fn roots(package: &Path) -> Vec<(String, bool)> {
    let mut roots = Vec::new();
    for (folder, is_test) in [
        ("src", false),
        ("src/bin", false),
        ("tests", true),
        ("benches", true),
        ("examples", true),
        ("fuzz_targets", true),
    ] {
        for entry in fs::read_dir(package.join(folder)).into_iter().flatten() {
            let path = entry.expect("an entry").path();
            let name = path.file_name().expect("a name").display().to_string();
            let is_root = match folder {
                "src" => ["lib.rs", "main.rs"].contains(&name.as_str()),
                _ => path.extension().is_some_and(|extension| extension == "rs"),
            };
            if is_root {
                roots.push((format!("{folder}/{name}"), is_test));
            } else if folder != "src" && path.join("main.rs").exists() {
                roots.push((format!("{folder}/{name}/main.rs"), is_test));
            }
        }
    }
    if package.join("build.rs").exists() {
        roots.push(("build.rs".to_owned(), false));
    }
    roots.sort_unstable();
    roots
}

/// Where a file stands in its crate.
struct ModulePlace<'a> {
    root: &'a str,
    package: &'a str,
    module: Vec<String>,
    is_test: bool,
}

fn load(workspace: &Path, path: &str, place: &ModulePlace<'_>, files: &mut Vec<SourceFile>) {
    let text = fs::read_to_string(workspace.join(path)).unwrap_or_else(|error| panic!("cannot read {path}: {error}"));
    let syntax = syn::parse_file(&text).unwrap_or_else(|error| panic!("cannot parse {path}: {error}"));
    let (folder, name) = path.rsplit_once('/').expect("a file in a folder");
    let owns_folder = place.module.is_empty() || name == "mod.rs";
    let below = if owns_folder { folder.to_owned() } else { path.trim_end_matches(".rs").to_owned() };
    let is_test = place.is_test || syntax.attrs.iter().any(is_for_tests);
    let here = ModulePlace { root: place.root, package: place.package, module: place.module.clone(), is_test };
    load_children(workspace, &below, &here, &syntax.items, files);
    files.push(SourceFile {
        path: path.to_owned(),
        package: place.package.to_owned(),
        root: place.root.to_owned(),
        module: here.module,
        is_test,
        text,
        syntax,
    });
}

fn load_children(
    workspace: &Path,
    folder: &str,
    parent: &ModulePlace<'_>,
    items: &[Item],
    files: &mut Vec<SourceFile>,
) {
    for item in items {
        let Item::Mod(module) = item else { continue };
        let name = module.ident.to_string();
        let is_test = parent.is_test || module.attrs.iter().any(is_for_tests);
        let path = [parent.module.clone(), vec![name.clone()]].concat();
        let place = ModulePlace { root: parent.root, package: parent.package, module: path, is_test };
        if let Some((_, inner)) = &module.content {
            load_children(workspace, &format!("{folder}/{name}"), &place, inner, files);
            continue;
        }
        let named = path_of(&module.attrs).map(|path| normal(&format!("{folder}/{path}")));
        let candidates = [named, Some(format!("{folder}/{name}.rs")), Some(format!("{folder}/{name}/mod.rs"))];
        let file = candidates.into_iter().flatten().find(|file| workspace.join(file).exists());
        load(workspace, &file.unwrap_or_else(|| panic!("no file of module {name} in {folder}")), &place, files);
    }
}

/// The value of `#[path = "…"]`.
fn path_of(attributes: &[Attribute]) -> Option<String> {
    let named =
        attributes.iter().find(|attribute| attribute.path().is_ident("path"))?.meta.require_name_value().ok()?;
    let Expr::Lit(ExprLit { lit: Lit::Str(path), .. }) = &named.value else { return None };
    Some(path.value())
}

/// The same path without `..`.
fn normal(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        if part == ".." {
            parts.pop();
        } else {
            parts.push(part);
        }
    }
    parts.join("/")
}

/// `#[cfg(test)]`, or of the feature with which other crates' tests build it.
pub(crate) fn is_for_tests(attribute: &Attribute) -> bool {
    let tokens = |list: &syn::MetaList| list.tokens.to_string();
    attribute.path().is_ident("test")
        || attribute.path().is_ident("cfg")
            && attribute.meta.require_list().map(tokens).is_ok_and(|condition| {
                let mut words = condition.split(|c: char| !c.is_alphanumeric());
                !condition.starts_with("not") && words.any(|word| ["test", "testing"].contains(&word))
            })
}
