// JavaScript: the page of `orchard serve` and the report's script. ESLint and its rules come with the page's packages.
import js from "./app/orchard/serving/page/node_modules/@eslint/js/src/index.js";
import globals from "./app/orchard/serving/page/node_modules/globals/index.js";

const PAGE = "app/orchard/serving/page";

export default [
  { ignores: ["**/vendor/", "**/node_modules/", "**/.venv/", "build/"] },
  js.configs.recommended,
  {
    languageOptions: { globals: globals.browser },
    rules: { "no-unused-vars": ["error", { ignoreRestSiblings: true }] },
  },
  { files: [`${PAGE}/worker.js`], languageOptions: { globals: globals.worker } },
  { files: [`${PAGE}/sw.js`], languageOptions: { globals: { ...globals.serviceworker, PAGE: "readonly" } } },
  { files: [`${PAGE}/reference/reference.js`], languageOptions: { globals: { SwaggerUIBundle: "readonly" } } },
  { files: ["app/orchard/report/templates/report.js"], languageOptions: { sourceType: "script" } },
  { files: ["tests/**"], languageOptions: { globals: globals.node } },
];
