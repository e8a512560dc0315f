// Between the page and the extension. The page's word for where it is counts for nothing: the browser tells
// the background script.
"use strict";
async function ask(request) {
  try {
    return await chrome.runtime.sendMessage(request);
  } catch (error) {
    // The extension was loaded anew since the page was.
    return { error: { reason: "EXTENSION", message: `${error.message} Load the page again.` } };
  }
}
const tell = (message) => window.postMessage(message, window.location.origin);

window.addEventListener("message", async (event) => {
  if (event.source !== window || event.origin !== window.location.origin) return;
  if (event.data?.type === "keyward-hello") tell({ type: "keyward-helper" });
  if (event.data?.type === "keyward-login") {
    tell({ type: "keyward-signed", answer: await ask(event.data.request) });
  }
});
tell({ type: "keyward-helper" });
