// node compile.js DIRECTORY KSY...: compiles each description to a Python module below DIRECTORY, one that keeps the
// place of every field, and lays the description beside it as JSON. Asks for the npm packages kaitai-struct-compiler
// and yaml.
const fs = require("fs"), path = require("path"), YAML = require("yaml"), compiler = require("kaitai-struct-compiler");

async function main(directory, descriptions) {
    for (const file of descriptions) {
        const description = YAML.parse(fs.readFileSync(file, "utf8"));
        const modules = await compiler.compile("python", description, null, true);
        for (const name in modules) fs.writeFileSync(path.join(directory, name), modules[name]);
        fs.writeFileSync(path.join(directory, path.basename(file, ".ksy") + ".json"), JSON.stringify(description));
    }
}

main(process.argv[2], process.argv.slice(3)).catch(error => {
    console.error(String(error));
    process.exit(1);
});
