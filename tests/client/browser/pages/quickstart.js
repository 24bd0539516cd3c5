// A page of an application that has Echo already. What README.md adds to it is run in it as it stands there.
import echo from "./echo.js";

window.Echo = echo;
window.show = (post) => (document.getElementById("title").textContent = post.title);
